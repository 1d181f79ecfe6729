"""Who here listens to what."""
