"""One file from another machine: the only room of PartialSeg that talks to any, and only when asked to.

:mod:`PartialSegLib.downloads` calls :func:`~PartialSegLib.fetching.transfer.fetch` when the user
downloads a model. Nothing else imports this room; a test holds the code to it.

- :mod:`~PartialSegLib.fetching.addresses`: which addresses are taken, and how they are shown;
- :mod:`~PartialSegLib.fetching.connection`: one HTTP answer, proxies, redirects, and waiting that can be cancelled;
- :mod:`~PartialSegLib.fetching.partfile`: the unfinished file on disk, and how it is gone on with;
- :mod:`~PartialSegLib.fetching.transfer`: the whole download, with its retries and checks.
"""
