"""The configuration: what is in force, typed, and how it is read, checked, overlaid and shown.

Secrets are never part of it: it holds the names of their files, and `files.read_secret` reads them where they are
used. A URL may hold a signature in its query, so `repr` and `render` leave the query out.
"""
