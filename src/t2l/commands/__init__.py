"""The verbs of the command line, one file a group of them. Each imports what it needs inside, so that help is quick.

Level 6. A verb reads its words, calls one door of t2l, and prints; it computes nothing itself.
"""
