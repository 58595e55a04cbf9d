"""What a browser would find on a report's page."""
from html.parser import HTMLParser


class Page(HTMLParser):
    """Elements, tables by id, and text by heading."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.headings, self.tables, self.pres, self.title = [], [], {}, [], ''
        self._open, self._table = [], None
        self.text = ''
        self.feed(path.read_text(encoding='utf-8'))
        self.close()
        self.text = ' '.join(self.text.split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ('meta', 'img', 'br', 'source'):
            self._open.append(tag)
        if tag == 'table':
            self._table = self.tables.setdefault(dict(attributes).get('id', f'table {len(self.tables)}'), [])
        if tag == 'tr':
            self._table.append([])
        if tag in ('td', 'th'):
            self._table[-1].append('')
        if tag == 'h2':
            self.headings.append('')
        if tag == 'pre':
            self.pres.append('')

    def handle_endtag(self, tag):
        assert self._open.pop() == tag  # well-formed

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ''
        if inside in ('td', 'th'):
            self._table[-1][-1] += data
        if inside == 'h2':
            self.headings[-1] += data
        if inside == 'pre':
            self.pres[-1] += data
        if inside == 'title':
            self.title += data
        if inside != 'style':
            self.text += data


def attributes(page, *names):
    return [values[name] for _, values in page.elements for name in names if name in values]
