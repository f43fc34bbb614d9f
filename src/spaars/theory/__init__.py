"""The claims of design section 2.7: on linear-quadratic problems, and of trained runs."""
