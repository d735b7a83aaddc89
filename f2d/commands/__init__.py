"""The commands of `f2d`: one `add_...` function for the options of each, and one function that runs it."""
