"""What an adversary can find out: audits of trained models, attacks on encrypted images.

Import the modules by name; nothing is loaded here.
"""
