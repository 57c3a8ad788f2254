/** The elements and texts of an XML document. @throws Error for one that is not well-formed. A subset of XML: what SVG plots consist of. */
export function parseXml(document: string): { readonly elements: string[]; readonly texts: string[] } {
  const elements: string[] = [];
  const texts: string[] = [];
  const open: string[] = [];
  const tag = /<(?:\?[^?]*\?|!DOCTYPE[^>]*|\/([\w:.-]+)\s*|([\w:.-]+)((?:\s+[\w:.-]+="[^"<]*")*)\s*(\/?))>/y;
  for (let at = 0; at < document.length;) {
    const next = document.indexOf("<", at);
    const text = document.slice(at, next < 0 ? document.length : next);
    if (/&(?!(?:amp|lt|gt|quot|apos|#\d+|#x[\da-f]+);)/i.test(text)) throw new Error(`a bare ampersand in the text ${text}`);
    if (text.trim() !== "") {
      if (open.length === 0) throw new Error(`the text ${text} is outside of the root`);
      texts.push(text.trim());
    }
    if (next < 0) break;
    tag.lastIndex = next;
    const [whole, end, name, attributes = "", empty] = tag.exec(document) ?? [];
    if (whole === undefined) throw new Error(`no tag at ${document.slice(next, next + 60)}`);
    const names = [...attributes.matchAll(/([\w:.-]+)=/g)].map(([, attribute]) => attribute);
    if (new Set(names).size < names.length) throw new Error(`an attribute twice in ${whole}`);
    if (end !== undefined && open.pop() !== end) throw new Error(`</${end}> closes what is not open`);
    if (name !== undefined) {
      if (open.length === 0 && elements.length > 0) throw new Error(`a second root <${name}>`);
      elements.push(name);
      if (empty === "") open.push(name);
    }
    at = next + whole.length;
  }
  if (open.length > 0) throw new Error(`<${open.join("> <")}> is never closed`);
  return { elements, texts };
}
