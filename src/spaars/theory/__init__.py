"""The claims of design section 2.7, measured on linear-quadratic problems (docs/theory.md)."""
