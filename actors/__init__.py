"""Behaviour: the columnar runtime and the actors that live in it. Cells are pure; one shell hosts them on Ray."""
