"""Benchmarks in the forms in which they are published: a module reads the files of each, all lie on disk or S3.

Files are other people's: they are bounded, their fields are checked, and what is wrong is said with file, field and
remedy. Pictures are read when they are asked about.
"""
