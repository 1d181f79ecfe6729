"""The Lua scripts: each is atomic."""
