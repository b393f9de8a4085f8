"""Small standard networks that several rooms train."""
