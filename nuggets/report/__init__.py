"""What people see of a selection: Markdown, a histogram and the figure.

Data in, text or an image out. Nothing here reads a store or decides what is kept.
"""
