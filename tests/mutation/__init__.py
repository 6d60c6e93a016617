"""Small mistakes are put into the code that exact resume rests on: do the quick tests notice?"""
