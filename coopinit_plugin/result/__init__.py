"""What comes out of a warm-up, and how it is kept and shown."""
