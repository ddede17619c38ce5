"""A spec as a picture: what is said, where it stands, and how it is written as SVG and HTML."""
