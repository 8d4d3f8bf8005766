"""An adapter in the forms that other runtimes read: a merged model folder, a GGUF adapter, a GGUF model.

Level 5. The PEFT folder is `t2l.adapter.Adapter.save`; everything here starts from an `Adapter` and knows nothing of
how it was made. ``gguf`` (extra ``export``) is imported where it is used.
"""
