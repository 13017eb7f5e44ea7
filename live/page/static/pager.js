// Pages of passages, with or without a filter, over a server that only lists them in order.

const SHOWN = 10; // passages of a page
const READ = 100; // passages of one request while filtering

/** Goes through the passages page by page. A filter reads on until a page is full. */
export class Pager {
  /**
   * @param {(limit: number, after: ?string, signal: AbortSignal) => Promise<object>} list
   * @param {(seen: number, total: number) => void} onProgress Called while a filter reads.
   */
  constructor(list, onProgress) {
    this.list = list;
    this.onProgress = onProgress;
    this.total = 0;
    this.restart("");
  }

  /** Begins again at the first passage. @param {string} filter Words that passages must contain. */
  restart(filter) {
    this.filter = filter.trim().toLowerCase();
    this.starts = [null]; // the passage before each page that is known
    this.page = 0;
  }

  get hasPrevious() {
    return this.page > 0;
  }

  get hasNext() {
    return this.page + 1 < this.starts.length;
  }

  /** Moves by a number of pages; `read` then reads that page. */
  turn(pages) {
    this.page = Math.min(Math.max(this.page + pages, 0), this.starts.length - 1);
  }

  /** Reads the page on which we are. @returns {Promise<object[]>} Its passages. */
  async read(signal) {
    const found = [];
    let after = this.starts[this.page];
    let seen = 0;
    let end = null; // the last passage of this page, if any stand behind it
    do {
      const answer = await this.list(this.filter ? READ : SHOWN, after, signal);
      this.total = answer.total;
      seen += answer.passages.length;
      for (const passage of answer.passages.filter((one) => this.matches(one))) {
        // One more than a page is looked for, so that a next page is never empty.
        if (found.length === SHOWN) {
          end = found.at(-1).id;
          break;
        }
        found.push(passage);
      }
      after = answer.next;
      if (this.filter) this.onProgress(seen, this.total);
      else end = after;
    } while (this.filter && after !== null && end === null);
    this.starts.length = this.page + 1;
    if (end !== null) this.starts.push(end);
    return found;
  }

  matches({ title, text }) {
    return !this.filter || `${title}\n${text}`.toLowerCase().includes(this.filter);
  }
}
