"""Speed and memory against named peers, on the same work in one run: ``python -m bench [name …]``.

Every module ``bench/<room>.py`` has ``run(quick) -> {"title": …, "rows": […]}``.  A row says what was
done, ``ours`` and ``peer`` in ``unit``, the ``ratio`` peer / ours, and the ``limit`` that the machine
sets.  Nothing here is a test: a busy machine must not fail one.
"""
