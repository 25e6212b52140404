"""The library's own commands, one file each, registered by :mod:`PartialSegLib.cli`.

Importing them must stay cheap: what needs numpy or torch is imported when a command runs.
"""
