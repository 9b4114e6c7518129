"""One job on Azure ML: what it is, shown or sent. Only ``credentials.py`` and ``service.py`` know Azure's libraries."""
