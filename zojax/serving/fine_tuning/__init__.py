"""Files and fine-tuning jobs over HTTP: OpenAI's routes for training in the engine that serves.

``file_store`` keeps files whose ``rows`` were checked, ``settings`` makes a run's configuration of
what was asked for, ``record`` is what is kept of a job, and ``tunings`` begins and ends jobs.
"""
