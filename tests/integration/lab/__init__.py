"""A laboratory on one machine: nodes in network namespaces, real containerds of three versions, real registries.

`Lab` owns everything and takes all of it down again; the other modules are its parts.
"""
