"""How fast, how light, how hard to break: `make bench`, or `python -m benchmarks --help`.

Each module with a `run` is one benchmark and yields figures; `catalogue` lists them. Every figure is measured in
the run that prints it: the same pulls with and without a mirror are made by turns, images are fresh and random,
pulled blobs are hashed, and what the upstream sent is counted.
"""
