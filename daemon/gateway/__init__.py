"""The process that takes tasks from servers and shows them to browsers: submit, follow, results, uploads, tokens."""
