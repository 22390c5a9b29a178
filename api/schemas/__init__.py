"""Bodies of the REST API. Pydantic lives here and nowhere else."""
