"""From a trained network to a folder that small machines run, and what runs it."""
