"""The local web page on a run: its data in plain functions, and the page on top of them."""
