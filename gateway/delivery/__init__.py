"""From a message to the socket: encoded once per codec, queued per connection, bounded."""
