"""
Fuzz targets: each takes any bytes, and raises only if what reads them broke a promise.

``python -m tests.fuzz`` runs them under atheris, guided by coverage; ``tests/test_fuzz.py`` runs the same functions
under Hypothesis.
"""
