"""Networks that were trained elsewhere, made into run folders."""
