"""Speed: how fast the encoders run on this machine, beside their own matrix products and beside other programs."""
