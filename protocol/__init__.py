"""The wire protocol of Fanway, and nothing else: no I/O, no asyncio, no clock."""
