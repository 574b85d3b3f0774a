"""Every setting once: type, range, default and help, read by Python, the command line and files.

Nothing here imports torch, so that ``opmerge --help`` and a record can be read without it.
"""
