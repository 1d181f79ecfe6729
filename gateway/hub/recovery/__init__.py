"""What a subscriber missed: history first, then live messages, without a gap."""
