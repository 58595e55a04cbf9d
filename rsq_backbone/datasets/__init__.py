"""Where pictures and their classes come from."""
