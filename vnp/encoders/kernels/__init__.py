"""GPU kernels: attention, products and the row-wise steps between them, and the choice among them."""
