"""Business data: places, devices, patients, alarms, tokens. SQLAlchemy Core on SQLite or PostgreSQL, one module an area.

All functions block: async code calls them through `asyncio.to_thread`. Every write names who and why, and appends to
the write log in the same transaction; what hosts must know goes to the outbox in that transaction too.
"""
