"""The measures, one file each: a file here with a `MEASURE` in it is a section of the page."""
