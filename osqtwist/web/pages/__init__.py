"""
The operators' pages: server-rendered, and nothing but another client of the operators' API.

To add a page:

1. a template in ``templates/`` that extends ``layout.html`` (block ``content``; ``title`` and ``crumbs`` if you like),
2. a module here with a coroutine function that takes a :class:`~osqtwist.web.pages.page.Visit` and answers with
   :class:`~osqtwist.web.pages.page.Shown`, and a tuple ``PAGES`` that names it: ``Page("/nodes", nodes,
   ("nodes.nodes",), nav="Nodes")``, and ``Action("/nodes/{node}/revoke", revoke)`` for what its forms post to,
3. one line in ``contents.py``: the order there is that of the navigation.

What a page shows it asks for by :meth:`Visit.ask`, which goes the way of a call over HTTP: role, group, audit trail.
``Page.needs`` names the operations without which the page makes no sense: who may not call them does not see it in the
navigation.  In a template ``may("nodes.revoke")`` says whether whoever looks may call an operation, so that no form is
shown that would be refused; ``Operation.name`` is the first part of the path, and the method that does the work.

A form::

    {% from "parts.html" import token %}
    <form method="post" action="/nodes/{{ node.node }}/note">{{ token(visit) }} ... </form>

``token`` puts the session's change token and the place to come back to into the form.  An :class:`Action` answers with
:class:`~osqtwist.web.pages.page.Done`: the browser is led back, or to where it says, and told so in a line there; what
the API refuses is told in the same way, in the API's words.  ``parts.html`` has macros for what many pages show:
moments, tags, states, where a list goes on, and ``ask_first``, the two steps before what cannot be undone.

Scripts are ES modules in ``static/``, without a build: ``<script type="module" src="{{ static('nodes.js') }}">`` in the
block ``scripts``.  They call ``/api/v1/...`` itself; ``import { api } from './api.js'`` has the change token in its
POSTs, ``EventSource`` needs none.  No inline script, no ``style`` attribute and no other host: the policy
(``headers.py``) forbids them, and a test fails at the first violation.  Colours and sizes are the custom properties of
``static/tokens.css``.  A page has to work without its script as far as that is possible.

Tests: ``tests/test_pages.py`` shows how; the fixtures of ``tests/browser.py`` are a server with simulated nodes and a
browser that is signed in, and ``look_over`` does the checks that every page has to pass.
"""
