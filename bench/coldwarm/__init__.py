"""First and later starts of an image: from the local disk, after a download, through rclone, through lazysif.

`python -m bench.coldwarm --help`; docs/benchmarks.md says what is measured and how.
"""
