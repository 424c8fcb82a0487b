"""Ways to group sampled answers, compared on the same samples."""
