"""A trained run as a policy, in Python and as a file for where neither JAX nor spaars is.

Nothing is imported here: `spaars.deploy.numpy_policy` must do without JAX.
"""
