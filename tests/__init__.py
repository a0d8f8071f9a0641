"""The tests of osqtwist."""
