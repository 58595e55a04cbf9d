"""Transfer learning: from pictures with classes to a checkpoint that timm loads."""
