"""The store that refstore replaces, kept so that both can be measured by the same work.

store       that store
build       compiles it, and any other .pyx beside the programs, when it is first asked for
workloads   the same work for refstore and for it
"""
