"""Runs of the whole job: members trained under one budget, fused, exported and scored."""
