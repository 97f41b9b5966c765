"""Attacks on encrypted images, and scores of what an adversary recovers.

Import the modules by name; nothing is loaded here.
"""
