"""Costs of the modules beside other libraries, against each library's own way.

`python -m benchmarks.integrations LIBRARY`; a module here is named after its library, and a page in
docs/integrations has its figures.
"""
