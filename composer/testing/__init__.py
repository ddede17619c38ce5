"""What every block has to hold, as functions: for the blocks here and for those of other packages.

`composer conformance my_package.module:MyBlock` runs all of it.
"""
