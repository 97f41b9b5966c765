"""One self-contained HTML page about a run of trainers.train.

`run_files` reads the run, `predictions` asks its model about held-out images, `facts` gathers every
figure, and `page` writes the page.
"""
