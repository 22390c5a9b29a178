"""The language of the platform: ids, metrics, thing models, readings, frames, alarms, messages. No I/O."""
