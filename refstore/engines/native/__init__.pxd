# The parts of the compiled core, which is refstore/_core.pyx: a folder for its cimports.
