"""The explorer: plans, frontiers and strategies that change live in a page, on this machine alone.

It stands on Starlette and uvicorn, three small packages with what they need, and on nothing in the
browser but one script of ours. Gradio sends usage data and loads fonts unless it is told not to,
and has no control that edits a plan; Panel and Bokeh draw on a canvas, which no screen reader
reads, and NiceGUI and marimo keep the state of a view in a session over a websocket, behind
megabytes of script. Here a view is its address: the server answers it with HTML, native form
controls and figures as SVG, the whole page is smaller than the logo of some, there is no third
party that could be called, and the browser's own keyboard, history, zoom and dark mode work.
"""
