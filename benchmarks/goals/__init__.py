"""The goals that the project holds itself to: one table, whose rows have a floor and a bound.

row             a row of it, and how long to measure
one_process     times that one process measures by itself
many_processes  times and rates of several processes
fresh_memory    processor time for memory that was never used
objects         small objects against pickle
batches         calls on a thousand objects at once
waiting         how soon calls that wait return, and what they cost meanwhile
makers          what one process makes for all
weights         what one process publishes to many
cache           what caches keep, and how fast they change
space           usable space and fragmentation
"""
